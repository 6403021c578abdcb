"""Which modules' adapters bring what a short run gains."""
