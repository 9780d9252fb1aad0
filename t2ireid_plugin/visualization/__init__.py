"""Pictures of results: ranked lists, attention maps, plots and an HTML report."""
