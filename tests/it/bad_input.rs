//! Malformed, forged, replayed, oversized and slow requests.
