"""Annotators beside each other and beside gold."""
