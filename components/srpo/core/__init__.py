"""What stages share: the objective, models, rewards, contracts, storage and execution."""
