"""Work outside the page: who runs it, how it is stopped and resumed, and what happens when it crashes."""
