"""What needs data, training and tasks together: features, report, demo."""
