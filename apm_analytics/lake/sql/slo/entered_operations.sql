-- the operations there are: every service and name that was entered
select distinct
  coalesce(service_name, 'unknown_service') as service_name,
  name as operation
from entry_spans
order by all
