"""The shipped configurations, one YAML file a method; installed as `raft_fast_configs`."""
