"""What nodes and sites say to each other and to requesters, as documents. No behavior beyond their own consistency."""
