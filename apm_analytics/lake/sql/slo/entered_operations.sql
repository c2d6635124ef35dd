-- all operations: service and name of the spans where a service was entered
select distinct
  coalesce(service_name, 'unknown_service') as service_name,
  name as operation
from entry_spans
order by all
