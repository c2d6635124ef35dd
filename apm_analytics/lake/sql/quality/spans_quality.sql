-- shares (1) of spans that lack a required value or have one out of range; number, first and last time of all spans
select
  count(*) as rows,
  min(time)::timestamp as first_time,
  max(time)::timestamp as last_time,
  count(*) filter (coalesce(trace_id, '') = '') / nullif(count(*), 0) as null_trace_id,
  count(*) filter (coalesce(span_id, '') = '') / nullif(count(*), 0) as null_span_id,
  count(*) filter (coalesce(name, '') = '') / nullif(count(*), 0) as null_name,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  count(*) filter (kind is null) / nullif(count(*), 0) as null_kind,
  count(*) filter (status_code is null) / nullif(count(*), 0) as null_status_code,
  count(*) filter (duration_ns < 0) / nullif(count(*), 0) as negative_duration_ratio,
  count(*) filter (duration_ns > $max_duration_s * 1e9) / nullif(count(*), 0) as long_duration_ratio,
  count(*) filter (http_response_status_code not between 100 and 599) / nullif(count(*), 0) as http_status_ratio,
  count(*) filter (
    kind not in ('unspecified', 'internal', 'server', 'client', 'producer', 'consumer')
    or status_code not in ('unset', 'ok', 'error')
  ) / nullif(count(*), 0) as unknown_word_ratio,
  -- a span with an invalid threshold counts once
  count(*) filter (
    regexp_matches(trace_state, '(?:^|,)[ \t]*ot=(?:[^,;]*;)*th:')
    and not regexp_matches(trace_state, '(?:^|,)[ \t]*ot=(?:[^,;]*;)*th:[0-9a-f]{1,14}[ \t]*(?:[;,]|$)')
  ) / nullif(count(*), 0) as threshold_ratio
from spans
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
