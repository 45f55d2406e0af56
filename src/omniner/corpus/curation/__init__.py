"""Making a corpus of people's labels: match their files, let them qualify, vote, ask an expert about the rest."""
