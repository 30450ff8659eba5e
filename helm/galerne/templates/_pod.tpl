{{/* Parts of pods. None may hold a version or a model's name: a changed pod builds a second cluster. */}}

{{- define "galerne.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* KubeRay gives its own init container that of the worker's. */}}
{{- define "galerne.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "galerne.imageFields" -}}
image: {{ include "galerne.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Where pods run, given a pool or the head's values. */}}
{{- define "galerne.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{/*
/etc/galerne is the state folder: Secret and ConfigMap, readable by the pod's group. Without subPath,
so that changed keys and settings arrive.
*/}}
{{- define "galerne.volumes" -}}
- name: state
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "galerne.secretName" . }}
          items:
            - {key: internal-token, path: internal-token}
            - {key: metrics-token, path: metrics-token}
            - {key: keys.json, path: keys.json}
      - configMap:
          name: {{ .Release.Name }}-settings
- name: tmp
  emptyDir: {}
- name: run
  emptyDir: {}
{{- end }}

{{- define "galerne.mounts" -}}
- name: state
  mountPath: /etc/galerne
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: run
  mountPath: /tmp/galerne
{{- end }}

{{- define "galerne.weightsVolume" -}}
- name: models
  {{- with .Values.weights }}
  {{- if or .claim.existing .claim.create }}
  persistentVolumeClaim:
    claimName: {{ .claim.existing | default (printf "%s-models" $.Release.Name) }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .emptyDirSize }}
  {{- end }}
  {{- end }}
{{- end }}

{{/*
The token of the autoscaler's account, which only its container mounts: the processes of the head
need none.
*/}}
{{- define "galerne.accountTokenVolume" -}}
- name: account-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - path: namespace
              fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}
{{- end }}
