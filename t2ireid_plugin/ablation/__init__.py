"""Recipes compared: a grid of settings trained over seeds, and a table that says which differences would stand.

`grid` reads what is to be compared, `runs` trains it, `summary` makes the figures, `report` the table and the plot.
"""
