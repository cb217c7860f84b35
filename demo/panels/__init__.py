"""The page's panels. Each has its components (`build`), its events (`connect`) and its handlers."""
