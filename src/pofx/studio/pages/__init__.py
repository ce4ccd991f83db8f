"""One file is one page: ORDER, TITLE, ABOUT and `build(shelf)`."""
