"""The model at home in other codebases; each module needs its framework and nothing here imports them."""
