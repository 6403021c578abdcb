"""From evidence and demand to ranks: budgets, the options of each site, the knapsack, whole shares."""
