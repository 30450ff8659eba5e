"""Results as a person looks at them: one HTML file, and pictures."""
