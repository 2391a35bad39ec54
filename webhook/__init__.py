"""The admission webhook: pods of our runtime classes become pods whose machine is elsewhere."""
