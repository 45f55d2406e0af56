"""How well people agree, and how well they do beside gold and beside models."""
