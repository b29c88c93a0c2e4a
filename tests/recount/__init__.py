"""A second look: the numbers that README quotes, counted again from the published wheels and the committed tables.

Nothing here imports the lab (``test_recount.py`` holds that); what the papers and their code say is read once more.
"""
