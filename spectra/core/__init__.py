"""The ground floor that all packages stand on: errors, files, documents, processes."""
