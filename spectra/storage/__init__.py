"""What an analysis keeps on disk beside its report."""
