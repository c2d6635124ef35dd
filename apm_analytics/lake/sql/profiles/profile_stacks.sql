-- folded stacks ("a;b;c") of a service with value in its unit and number of samples, summed over profiles
with lines as (
  select
    service_name,
    attributes['profile.type'] as type,
    attributes['profile.unit'] as unit,
    unnest(string_split(body, chr(10))) as line
  from logs
  where event_name = 'profile.samples'
)
select
  service_name as service,
  type,
  unit,
  regexp_extract(line, '^(.*) \d+$', 1) as stack,
  sum(cast(regexp_extract(line, ' (\d+)$', 1) as bigint)) as value,
  count(*) as samples
from lines
where regexp_matches(line, '^.+ \d+$')
  and ($service is null or service_name = $service)
group by all
order by value desc, stack
