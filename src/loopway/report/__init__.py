"""Present results: tables, figures, pages."""
