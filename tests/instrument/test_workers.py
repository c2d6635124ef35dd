"""Spans survive the end of a worker process, which does not run exit handlers."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from otlp_sink import Sink, otlp_sink

CELERY = """
    from celery import Celery
    from opentelemetry import trace

    from apm_analytics import instrument

    app = Celery("work", broker="filesystem://")
    app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
    instrument.setup()


    @app.task
    def pay(number):
        with trace.get_tracer("work").start_as_current_span(f"pay {number}"):
            pass
"""
PROCESSES = """
    import multiprocessing
    import sys
    from concurrent.futures import ProcessPoolExecutor

    from opentelemetry import trace

    from apm_analytics import instrument


    def pay(number):
        with trace.get_tracer("work").start_as_current_span(f"pay {number}"):
            pass


    def set_up_and_pay(number):
        instrument.setup()
        pay(number)


    if __name__ == "__main__":
        way, method = sys.argv[1:]
        context = multiprocessing.get_context(method)
        if method == "fork":
            instrument.setup()
        work = pay if method == "fork" else set_up_and_pay
        if way == "pool":
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                list(pool.map(work, range(4)))
        else:
            for number in range(4):
                process = context.Process(target=work, args=(number,))
                process.start()
                process.join()
"""


def environment(sink: Sink, workspace: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # nothing leaves by itself
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "APM_PRIVACY_RULES": str(workspace / "specs" / "privacy.yaml"),
        "APM_PRIVACY_SALT": "pepper",
        "PYTHONPATH": os.pathsep.join([str(workspace), os.environ.get("PYTHONPATH", "")]),
    }


def paid(sink: Sink) -> list[str]:
    return sorted(span.name for span in sink.spans() if span.name.startswith("pay"))


def test_a_celery_worker_that_ends_after_each_task_sends_their_spans(
    tmp_path: Path, workspace: Path
) -> None:
    (tmp_path / "work.py").write_text(textwrap.dedent(CELERY))
    (tmp_path / "queue").mkdir()
    with otlp_sink() as sink, (tmp_path / "log").open("w+") as log:
        env = environment(sink, workspace)
        send = "import work; [work.pay.delay(number) for number in range(4)]"
        subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=env, check=True)
        options = ["--pool=prefork", "--concurrency=1", "--max-tasks-per-child=1"]
        command = [sys.executable, "-m", "celery", "-A", "work", "worker", *options]
        worker = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            sink.await_that(lambda: len(paid(sink)) == 4, timeout_s=60)
            assert worker.poll() is None
        finally:
            worker.terminate()
            worker.wait(60)
    assert paid(sink) == [f"pay {number}" for number in range(4)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("way", ["pool", "process"])
def test_processes_of_multiprocessing_send_their_spans(
    tmp_path: Path, workspace: Path, way: str, method: str
) -> None:
    (tmp_path / "work.py").write_text(textwrap.dedent(PROCESSES))
    with otlp_sink() as sink:
        command = [sys.executable, "work.py", way, method]
        subprocess.run(command, cwd=tmp_path, env=environment(sink, workspace), check=True)
        assert paid(sink) == [f"pay {number}" for number in range(4)]
