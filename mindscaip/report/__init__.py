"""Pages that show results: one self-contained HTML file each, made of figures, tables and a few sentences."""
