-- errors of the last 24 hours of the spans (UTC) that are new to their operation, with counts corrected for sampling
with failed as (
  select
    coalesce(service_name, '') as service_name,
    name as operation,
    coalesce(
      error_type,
      nullif(status_message, ''),
      'HTTP ' || http_response_status_code,
      'no type'
    ) as error,
    round(sum(sample_weight))::bigint as count,
    min(time) as first_seen
  from spans
  where status_code = 'error'
  group by all
),
newest as (
  select max(time) - interval 24 hours as since, min(time) as begins from spans
),
known as (
  select service_name, name as operation
  from spans
  group by service_name, name
  having min(time) <= (select since from newest)
)
select failed.service_name, failed.operation, failed.error, failed.count, failed.first_seen
from failed
cross join newest
join known
  on known.service_name is not distinct from failed.service_name
  and known.operation = failed.operation
where failed.first_seen > newest.since and newest.begins < newest.since
order by failed.count desc, failed.service_name, failed.operation, failed.error
limit 100
