"""The loop of a run, without IO: plan, coordinator, clients, cohorts, stops, state."""
