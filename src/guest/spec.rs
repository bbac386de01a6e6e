//! What the guest's init is told.
