"""The values of a site: principals, quotas, clusters, records. No IO."""
