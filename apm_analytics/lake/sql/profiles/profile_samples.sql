-- samples of profiles: folded stack, value in its unit, trace and span id
select
  time,
  service_name as service,
  attributes['profile.type'] as type,
  attributes['profile.unit'] as unit,
  attributes['profile.operation'] as operation,
  regexp_extract(line, '^(.*) \d+$', 1) as stack,
  cast(regexp_extract(line, ' (\d+)$', 1) as bigint) as value,
  trace_id,
  span_id
from (
  select *, unnest(string_split(body, chr(10))) as line
  from logs
  where event_name = 'profile.samples'
)
where regexp_matches(line, '^.+ \d+$')
  and ($service is null or service_name = $service)
order by time, value desc
