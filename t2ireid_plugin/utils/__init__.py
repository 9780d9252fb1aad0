"""General helpers: distributed processes, files, signals, logs, fonts, progress."""
