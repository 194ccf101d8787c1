-- lane: the rules of a lane, for the whole fleet, as soon as what waits is gathered; it is ranked anew by the reconciler.
-- ARGV 1: lane, source, policy, oldest, fair, retention_ms
--   source: "hand", "file", or "reset" (what aios.toml said last); policy, oldest, fair: nil leaves each as it is
-- returns: {policy, oldest, fair: as the lane has or will have them; set by hand (1) or not (0); 1 where there is more to gather}
-- flags: allow-oom
-- include: mend, rules
return set_lane({ lane = A.lane, policy = A.policy, oldest = A.oldest, fair = A.fair }, A.source)
