"""The values of EC2: accounts, instances and their types, prices, how an image boots. No IO."""
