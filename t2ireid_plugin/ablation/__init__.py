"""Comparison of recipes: a grid of settings trained over seeds, and a table of differences with confidence intervals.

`grid` reads the grid, `runs` trains it, `summary` computes the figures, `report` writes the tables and the plot.
"""
