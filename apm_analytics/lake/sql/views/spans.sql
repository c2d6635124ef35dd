-- the spans as they are stored, each with the number of spans it stands for: 1 unless it was sampled
select
  *,
  -- OpenTelemetry's consistent sampling: of 2^56 random numbers those below the threshold are
  -- rejected; `th` has its hex digits, without the zeros at its end
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
