{{/* Where the head keeps its state, so that a new head takes over; nothing if it keeps none. */}}
{{- define "galerne.redisOptions" -}}
{{- if .Values.redis.bundled.enabled -}}
backend: redis
redisAddress: {{ .Release.Name }}-redis:6379
redisPassword:
  valueFrom:
    secretKeyRef:
      name: {{ .Release.Name }}-redis
      key: password
{{- else if .Values.redis.external.address -}}
backend: redis
redisAddress: {{ .Values.redis.external.address }}
{{- with .Values.redis.external.passwordSecret }}
{{- if .name }}
redisPassword:
  valueFrom:
    secretKeyRef:
      {{- toYaml . | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}
{{- end }}
