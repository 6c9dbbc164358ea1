"""What results look like: tables, figures, pages."""
