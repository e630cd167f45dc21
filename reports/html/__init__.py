"""One self-contained HTML file that opens offline."""
