"""What everything stands on: configurations, capabilities, checkpoints, the registry. No model lives here."""
