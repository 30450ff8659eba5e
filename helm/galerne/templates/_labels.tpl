{{- define "galerne.labels" -}}
app.kubernetes.io/name: galerne
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
