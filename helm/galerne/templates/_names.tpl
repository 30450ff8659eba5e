{{/* Name of everything the chart makes: the release's, which is also the RayService's. */}}
{{- define "galerne.name" -}}
{{- .Release.Name -}}
{{- end }}

{{/* Labels of objects other than pods. */}}
{{- define "galerne.labels" -}}
app.kubernetes.io/name: galerne
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/*
Labels of Ray's pods, and what policies select them by. Never a version: a changed label builds a
second cluster. Not app.kubernetes.io/name either: KubeRay selects the head by its own value of it.
*/}}
{{- define "galerne.podLabels" -}}
app.kubernetes.io/part-of: galerne
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of the bundled Redis. */}}
{{- define "galerne.redisLabels" -}}
app.kubernetes.io/component: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "galerne.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret with internal-token, metrics-token and keys.json. */}}
{{- define "galerne.secretName" -}}
{{- .Values.secrets.existing | default (printf "%s-secrets" .Release.Name) -}}
{{- end }}

{{/* The ServiceAccount of pods with gateways, which watch nodes. */}}
{{- define "galerne.gatewayAccount" -}}
{{- .Release.Name }}-gateway
{{- end }}

{{/* The service that clients' requests go to. */}}
{{- define "galerne.serveService" -}}
{{- .Release.Name }}-serve-svc
{{- end }}
