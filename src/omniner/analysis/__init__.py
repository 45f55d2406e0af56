"""What figures say and how they are shown: of one run, of several, of annotators, of corpora. No torch here.

`scores` counts, `errta` sorts errors, `compare` puts runs beside each other and `people` annotators, `guide` makes
prompts of errors, `corpora` describes data; `pages` is what their pages, figures and tables have in common.
"""
