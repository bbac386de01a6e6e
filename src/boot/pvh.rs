//! PVH start of day structure.
