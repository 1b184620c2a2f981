"""Image lists of HEPiX and EGI: export, import, subscriptions. Does not decide whom to trust."""
