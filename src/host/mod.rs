//! What this host's KVM can do.
