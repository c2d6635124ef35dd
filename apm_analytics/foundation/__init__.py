"""What every other package builds on; imports nothing of ours.

- `errors`: `ApmError` and its kinds, which `cli` turns into exit codes
- `settings`: the environment and params.yaml as one frozen `Settings`
- `specs`: YAML of `specs/` checked against pydantic models
- `yaml_documents`: YAML with the line of every key, without pydantic
- `linear`: patterns that are searched for in linear time
- `privacy`: the redaction rules, also used inside watched processes
- `provenance`: git commit, data hash and params hash of a run
- `atomic`: files that are replaced in one step
- `compiled`: functions compiled by numba and cached on disk
- `varint`: variable-length numbers of protobuf and Thrift
- `light_jsonschema`: keeps jsonschema from compiling a grammar on import

In:  the environment, params.yaml, specs/.
Out: settings, specs, rules and helpers.
"""
