{{/* The head: Ray's control plane, Serve's controller, the autoscaler. No replica runs there. */}}
{{- define "galerne.headGroup" -}}
rayStartParams:
  num-cpus: "0"
  object-store-memory: "134217728"
template:
  metadata:
    labels:
      {{- include "galerne.podLabels" . | nindent 6 }}
    annotations:
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      karpenter.sh/do-not-disrupt: "true"
  spec:
    automountServiceAccountToken: false
    enableServiceLinks: false
    terminationGracePeriodSeconds: 30
    {{- with .Values.image.pullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- include "galerne.podSecurity" . | nindent 6 }}
    {{- with include "galerne.placement" .Values.head | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    containers:
      - name: ray-head
        {{- include "galerne.imageFields" . | nindent 8 }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- include "galerne.containerSecurity" . | nindent 10 }}
        env:
          {{- include "galerne.environment" . | trim | nindent 10 }}
          # Serve's controller keeps the head busy for ever: waiting would only delay the next head.
          - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
            value: "0"
        resources:
          requests:
            {{- toYaml .Values.head.resources | nindent 12 }}
          limits:
            {{- toYaml .Values.head.resources | nindent 12 }}
        volumeMounts:
          {{- include "galerne.mounts" . | nindent 10 }}
    volumes:
      {{- include "galerne.volumes" . | nindent 6 }}
      {{- include "galerne.accountTokenVolume" . | nindent 6 }}
      - name: autoscaler-tmp
        emptyDir: {}
{{- end }}

{{/* The sidecar of the head that orders worker pods; KubeRay makes its account and its rights. */}}
{{- define "galerne.autoscaler" -}}
version: v2
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "galerne.containerSecurity" . | nindent 2 }}
env:
  - name: HOME
    value: /tmp
  - name: RAY_USAGE_STATS_ENABLED
    value: "0"
resources:
  requests: {cpu: 500m, memory: 512Mi}
  limits: {cpu: 500m, memory: 512Mi}
volumeMounts:
  - name: autoscaler-tmp
    mountPath: /tmp
  - name: account-token
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
{{- end }}
