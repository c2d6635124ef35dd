-- the stored spans, each with its sampling weight (1): the number of spans that it represents
select
  *,
  -- OpenTelemetry's consistent sampling: of 2^56 random numbers those below the threshold are
  -- rejected; `th` is the threshold in hex digits without trailing zeros
  case
    when trace_state is null then 1.0
    else coalesce(
      72057594037927936.0 / (
        72057594037927936 - (
          '0x' || rpad(
            nullif(regexp_extract(trace_state, '(?:^|,)[ \t]*ot=(?:[^,;]*;)*th:([0-9a-f]{1,14})[ \t]*(?:[;,]|$)', 1), ''),
            14,
            '0'
          )
        )::bigint
      ),
      1.0
    )
  end as sample_weight
from stored_spans
