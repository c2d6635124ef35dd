// Send spans over gRPC and HTTP, and a metric, to the ports given; exit 0 when all was taken.
import { metrics } from "@opentelemetry/api";
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPTraceExporter as GrpcExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { OTLPTraceExporter as ProtoExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { MeterProvider, PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

const [grpcPort, httpPort] = process.argv.slice(2);
const http = `http://127.0.0.1:${httpPort}/v1`;
const resource = (name) => resourceFromAttributes({ "service.name": name });

async function spans(service, exporter) {
  const provider = new NodeTracerProvider({
    resource: resource(service),
    spanProcessors: [new BatchSpanProcessor(exporter)],
  });
  const tracer = provider.getTracer("e2e");
  for (let number = 0; number < 100; number++) {
    tracer.startSpan(`js ${number}`, { attributes: { "http.route": "/cart", number } }).end();
  }
  await provider.forceFlush();
  await provider.shutdown();
}

await spans("js-grpc", new GrpcExporter({ url: `http://127.0.0.1:${grpcPort}` }));
await spans("js-http", new ProtoExporter({ url: `${http}/traces`, compression: "gzip" }));
const reader = new PeriodicExportingMetricReader({
  exporter: new OTLPMetricExporter({ url: `${http}/metrics` }),
});
const provider = new MeterProvider({ resource: resource("js-json"), readers: [reader] });
metrics.setGlobalMeterProvider(provider);
metrics.getMeter("e2e").createCounter("js.orders").add(3);
await provider.shutdown();
