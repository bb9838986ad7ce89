"""What pictures and features are measured by. `table` has one row per metric; only it and `similarity_file` load no
torch."""
