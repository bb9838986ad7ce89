"""Work outside the page: who runs it, how it is stopped, and what happens when it crashes."""
