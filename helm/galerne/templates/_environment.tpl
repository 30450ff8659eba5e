{{/*
Environment of every Ray process, as YAML list. The same as cluster_environment() of
serving/adapters/ray_cluster.py, which says why each is there, with the values that fit a pod; a test
compares them. KubeRay adds RAY_AUTH_MODE and RAY_AUTH_TOKEN. Whether a hub may be asked is a value
instead of a question to the models: the first one from a hub would otherwise change every pod.
*/}}
{{- define "galerne.environment" -}}
{{- $limits := dig "gateway" "limits" dict (include "galerne.settings" . | fromJson) -}}
{{- $refusal := addf (dig "upload_timeout_s" 20.0 $limits) 10.0 -}}
{{- $stalled := dig "stalled_read_timeout_s" 60.0 $limits -}}
{{- $environment := dict
  "GALERNE_CACHE_DIR" "/models"
  "GALERNE_HEADER_TIMEOUT_S" (dig "header_timeout_s" 10 $limits)
  "GALERNE_LOG_DIR" "/tmp/ray/galerne"
  "GALERNE_STATE_DIR" "/etc/galerne"
  "HF_HOME" "/models/huggingface"
  "HF_HUB_DISABLE_TELEMETRY" "1"
  "HOME" "/tmp"
  "PROMETHEUS_DISABLE_CREATED_SERIES" "True"
  "RAY_SERVE_CONTROL_LOOP_INTERVAL_S" "0.5"
  "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S" "2.0"
  "RAY_SERVE_ENABLE_HA_PROXY" "1"
  "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT" "8500"
  "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS" "1"
  "RAY_SERVE_HAPROXY_BINARY_PATH" "/opt/galerne/bin/galerne-haproxy"
  "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC" "/tmp/galerne/haproxy.cfg"
  "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S" "86400"
  "RAY_SERVE_HAPROXY_MAXCONN" "12288"
  "RAY_SERVE_HAPROXY_METRICS_ENABLED" "0"
  "RAY_SERVE_HAPROXY_METRICS_PORT" "9101"
  "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH" "/tmp/galerne/metrics.sock"
  "RAY_SERVE_HAPROXY_NBTHREAD" "4"
  "RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED" "0"
  "RAY_SERVE_HAPROXY_SERVER_STATE_BASE" "/tmp/galerne"
  "RAY_SERVE_HAPROXY_SERVER_STATE_FILE" "/tmp/galerne/server-state"
  "RAY_SERVE_HAPROXY_SOCKET_PATH" "/tmp/galerne/admin.sock"
  "RAY_SERVE_HAPROXY_STATS_PORT" "8404"
  "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S" (maxf $stalled $refusal | ceil | int)
  "RAY_SERVE_HAPROXY_TUNE_BUFSIZE" "131072"
  "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" "serving.gateway.edge.middlewares"
  "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT" "2"
  "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S" "1"
  "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE" "1"
  "RAY_SERVE_THROUGHPUT_OPTIMIZED" "1"
  "RAY_USAGE_STATS_ENABLED" "0"
  "RAY_memory_monitor_refresh_ms" "0"
  "RAY_worker_niceness" "0"
  "RAY_worker_oom_score_adjustment" "0"
  "TOKENIZERS_PARALLELISM" "false"
  "VLLM_NO_USAGE_STATS" "1"
-}}
{{- with .Values.weights.huggingface -}}
{{- if not .enabled -}}{{- $_ := set $environment "HF_HUB_OFFLINE" "1" -}}{{- end -}}
{{- with .endpoint -}}{{- $_ := set $environment "HF_ENDPOINT" . -}}{{- end -}}
{{- end -}}
{{- range $name, $value := $environment }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* What only pods that fetch weights need. */}}
{{- define "galerne.weightsAccess" -}}
{{- with .Values.weights.huggingface }}
{{- if and .enabled .tokenSecret.name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      {{- toYaml .tokenSecret | nindent 6 }}
{{- end }}
{{- end }}
{{- with .Values.weights.objectStorage }}
{{- if .enabled }}
{{- range $name, $value := .environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "galerne.storageCredentials" -}}
{{- with .Values.weights.objectStorage }}
{{- if and .enabled .credentialsSecret }}
envFrom:
  - secretRef:
      name: {{ .credentialsSecret }}
{{- end }}
{{- end }}
{{- end }}
