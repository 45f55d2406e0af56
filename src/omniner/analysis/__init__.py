"""What a comparison with gold says: scores, sorted errors, tables, figures, the report. No torch here."""
